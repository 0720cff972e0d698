"""The demo: a page to upload a photograph, write sentences and see their masks.

``answers`` computes masks, ``served`` holds uploaded and generated files, ``page`` has the widgets, ``gate``
restricts requests, ``server`` puts them together.
"""
