"""Questions with ground truth from real volumes and segmentations: `medvlm-r1 data import volumes`."""
