"""The planner: latency, cost beside a peer, success, and ablations of its parts."""
