"""MARIS, referring image segmentation from frozen SAM and CLIP features: trained fast, and proven."""

from maris_fast.nameless_user import name_the_user

__version__ = "0.1.0"

name_the_user()
