"""Sound and speech: samples, the ring, time lines, engines. Knows no HTTP, no Redis, no clinic."""
