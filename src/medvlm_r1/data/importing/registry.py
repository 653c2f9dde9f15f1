"""Readers of public formats, by the name the command line uses."""

from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.readers.huatuo import import_huatuo
from medvlm_r1.data.readers.med_r1 import import_med_r1
from medvlm_r1.data.readers.omnimedvqa import import_omnimedvqa
from medvlm_r1.data.readers.own import OWN_READERS
from medvlm_r1.data.readers.path_vqa import import_path_vqa
from medvlm_r1.data.readers.pmc_vqa import import_pmc_vqa
from medvlm_r1.data.readers.slake import import_slake
from medvlm_r1.data.readers.vqa_rad import import_vqa_rad
from medvlm_r1.errors import UsageError

READERS: dict[str, Importer] = {
    "huatuo": import_huatuo,
    "omnimedvqa": import_omnimedvqa,
    "med-r1": import_med_r1,
    "vqa-rad": import_vqa_rad,
    "slake": import_slake,
    "path-vqa": import_path_vqa,
    "pmc-vqa": import_pmc_vqa,
    **OWN_READERS,
}


def find_reader(name: str) -> Importer:
    """The reader of a format.

    Raises:
        UsageError: No reader has that name; the message names the nearest.
    """
    if name not in READERS:
        raise UsageError(f"unknown data format {name!r}; {did_you_mean(name, READERS)}")
    return READERS[name]
