select
    service as name,
    state,
    since
from split.states;
