"""One spelling for each imaging modality.

The long spellings, missing brackets and stray hyphens included, are those of OmniMedVQA (arXiv 2402.09181), which the
other collections inherit.
"""

_SPELLINGS = {
    "MRI": ("MR", "MRI", "MR (Mag-netic Resonance Imaging)", "Magnetic Resonance Imaging"),
    "CT": ("CT", "CT(Computed Tomography)", "Computed Tomography"),
    "X-ray": ("X-ray", "Xray", "X ray"),
    "Ultrasound": ("ultrasound", "US"),
    "OCT": ("OCT", "OCT (Optical Coherence Tomography", "OCT (Optical Coherence Tomography)"),
    "Fundus": ("Fundus", "Fundus Photography"),
    "Dermoscopy": ("Dermoscopy",),
    "Microscopy": ("Microscopy", "Microscopy Images"),
    "Endoscopy": ("Endoscopy",),
    "Colposcopy": ("Colposcopy",),
    "Digital photography": ("Digital Photography",),
    "Infrared reflectance": ("Infrared reflectance", "Infrared Reflectance Imaging"),
}

MODALITIES = tuple(_SPELLINGS)


def _key(spelling: str) -> str:
    return "".join(spelling.split()).casefold()


_BY_KEY = {_key(spelling): name for name, spellings in _SPELLINGS.items() for spelling in spellings}


def modality_name(spelling: str) -> str | None:
    """The project's name for a modality.

    Args:
        spelling: As a data set or a user writes it; case and white space do not matter.

    Returns:
        One of `MODALITIES`, or None when the spelling is not known.
    """
    return _BY_KEY.get(_key(spelling))
