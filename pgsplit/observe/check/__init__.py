"""Asks all servers at once for what a split will ever need, before anything is made.

Every rule is the one that the operations' own preflights have; what they would refuse one by one is
found here together, with the statements that an operator pastes.
"""
