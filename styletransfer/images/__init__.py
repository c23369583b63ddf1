"""Images: reading and writing files, sizes, colors, and the inputs of a run.

Imports nothing of the package but errors, files, options and version.
"""

from .folders import list_pictures
from .images import UNNAMED, Picture, fit_size, flatten_on_white, to_pil, to_tensor
from .inputs import (
    Inputs,
    RegionInput,
    Source,
    StyleInput,
    Styles,
    again,
    as_list,
    check_fits,
    digest,
    read_inputs,
    to_mask,
)
from .reading import read_own_settings, read_picture, read_settings, read_size
from .writing import FORMATS, check_distinct, check_folder, check_output, write_picture

__all__ = [
    "FORMATS",
    "UNNAMED",
    "Inputs",
    "Picture",
    "RegionInput",
    "Source",
    "StyleInput",
    "Styles",
    "again",
    "as_list",
    "check_distinct",
    "check_fits",
    "check_folder",
    "check_output",
    "digest",
    "fit_size",
    "flatten_on_white",
    "list_pictures",
    "read_inputs",
    "read_own_settings",
    "read_picture",
    "read_settings",
    "read_size",
    "to_mask",
    "to_pil",
    "to_tensor",
    "write_picture",
]
