"""Federated multimodal recommendation, to read, to teach and to measure."""

import fedlab_mm.data  # noqa: F401
