"""A trained model as an HTTP service, for ``maris-fast serve``.

``places`` says who is answered next, ``together`` computes what waits at once, ``segmenting`` goes from an
upload to masks by both, ``api`` and ``label_studio`` are its two protocols.
"""
