"""How often a follower asks for news and looks at its streams: often at work, seldom when idle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pgsplit.replication.stream import LOOK_SECONDS

# A change may pass two followers, an owner's and a consumer's, and each should take it up at once.
LOOKS_IN_BETWEEN = 4
# While there is much to apply, a heartbeat so often tells how far it is.
BUSY_SECONDS = 1.0
BUSY_BEAT_SECONDS = 0.25
# A follower that has had nothing to apply for so long is quiet: it asks less often whether there is
# news, and looks less often at its streams.
QUIET_AFTER_SECONDS = 10.0
QUIET_PAUSE_SECONDS = 0.4
QUIET_LOOK_SECONDS = 3.0


@dataclass
class Rhythm:
    """The rhythm of one follower; all times are seconds.

    A look writes a heartbeat, and the lag of what is shown is that of the last one: so a look is
    never further away than half the lag that is allowed, or a second.
    """

    interval: float
    max_lag: float
    clock: Callable[[], float] = time.monotonic
    busy_at: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin as if there were something to apply."""
        self.busy_at = self.clock()

    def note_work(self) -> None:
        """Note that there was something to apply, or trouble."""
        self.busy_at = self.clock()

    @property
    def is_quiet(self) -> bool:
        """Whether there has been nothing to apply, and no trouble, for a while."""
        return self.clock() - self.busy_at > QUIET_AFTER_SECONDS

    @property
    def look_seconds(self) -> float:
        """From one look at the streams to the next."""
        if not self.is_quiet:
            return LOOK_SECONDS
        return max(LOOK_SECONDS, min(QUIET_LOOK_SECONDS, self.max_lag / 2))

    @property
    def beat_seconds(self) -> float:
        """From one heartbeat to the next; each look writes one, too."""
        is_busy = self.clock() - self.busy_at < BUSY_SECONDS
        return BUSY_BEAT_SECONDS if is_busy else self.look_seconds

    @property
    def pause_seconds(self) -> float:
        """From one question for news to the next."""
        return max(self.interval / LOOKS_IN_BETWEEN, QUIET_PAUSE_SECONDS if self.is_quiet else 0.0)
