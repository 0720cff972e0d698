"""Code that the demo's page and the HTTP service share.

``gate`` checks the origin, size and duration of requests, ``connections`` and ``listening`` limit uvicorn,
``visitors`` decides whose turn it is, ``limits`` bounds what a model is asked, ``encodings`` caches features.
"""
