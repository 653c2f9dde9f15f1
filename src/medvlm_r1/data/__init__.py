"""Samples, data folders, the image loader, and the readers of public formats."""

from medvlm_r1.data.folder import folder_hash, read_folder, write_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.data.importing.importer import ImportReport
from medvlm_r1.data.importing.registry import find_reader
from medvlm_r1.data.sample import Sample

__all__ = ["ImportReport", "Sample", "find_reader", "folder_hash", "load_image", "read_folder", "write_folder"]
