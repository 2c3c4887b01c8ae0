"""Items' pictures and titles as fixed vectors: Eq. 1 of FedVLR, V = h(E_v) and C = h(E_c).

h is OpenCLIP (`openclip`), as in the papers, or the offline encoder, which needs no weights. Files are opened by
`images`, vectors kept by `cache`; `encode` puts them together.
"""

from fedlab_mm.encoding.base import Encoder, EncoderUnavailable
from fedlab_mm.encoding.cache import FeatureCache, cache_folder
from fedlab_mm.encoding.encode import Encoded, choose, clean_text, encode_images, encode_items, encode_texts
from fedlab_mm.encoding.images import (
    Covers,
    UnreadableImage,
    files_in,
    folder_called,
    inside,
    nfc,
    open_image,
    pictures_in,
    pictures_of,
    suffixes,
)
from fedlab_mm.encoding.offline import OfflineEncoder
from fedlab_mm.encoding.openclip import OpenCLIP
from fedlab_mm.registry import import_members

import_members(__name__, __path__)

__all__ = [
    "Covers",
    "Encoded",
    "Encoder",
    "EncoderUnavailable",
    "FeatureCache",
    "OfflineEncoder",
    "OpenCLIP",
    "UnreadableImage",
    "cache_folder",
    "choose",
    "clean_text",
    "encode_images",
    "encode_items",
    "encode_texts",
    "files_in",
    "folder_called",
    "inside",
    "nfc",
    "open_image",
    "pictures_in",
    "pictures_of",
    "suffixes",
]
