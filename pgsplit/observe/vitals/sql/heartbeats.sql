select
    service as name,
    at
from split.heartbeats;
