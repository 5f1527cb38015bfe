"""What the tests of the runner share: servers, states to begin from, traffic, and waiting."""
