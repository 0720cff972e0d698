"""A trained model as an HTTP service, for ``maris-fast serve``.

``places`` decides which request is next, ``together`` batches waiting calls, ``segmenting`` uses both to turn
an upload into masks, ``api`` and ``label_studio`` are the two protocols.
"""
