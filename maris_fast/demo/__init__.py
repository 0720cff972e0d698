"""The demo: a page where one uploads a photograph, writes sentences and sees their masks.

``answers`` computes, ``served`` holds the files that go in and out, ``page`` has the widgets, ``gate`` says
who may ask what, ``server`` puts them together.
"""
