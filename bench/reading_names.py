"""Names that the reading benchmark and its tables share."""

WARM, COLD, BUSY = "warm page cache", "cold page cache", "beside a busy consumer"
OURS = "ours: ring, 2 threads, checksums of all"
RAW_TWO = "raw preadv, two threads"
