"""From annotations on disk to batches of image groups: import, cache, index, stream."""
