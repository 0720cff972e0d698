"""What the demo's page and the HTTP service share.

``gate`` says who may ask, how much and how fast, ``connections`` and ``listening`` are uvicorn's with limits,
``visitors`` whose turn it is, ``limits`` what may be asked of a model, ``encodings`` what is computed once.
"""
