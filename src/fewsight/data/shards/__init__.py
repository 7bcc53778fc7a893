"""Photos in tar shards: sets larger than a disk, read where they lie."""
