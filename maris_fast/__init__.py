"""MARIS, referring image segmentation from frozen SAM and CLIP features: trained fast, and proven."""

__version__ = "0.1.0"
