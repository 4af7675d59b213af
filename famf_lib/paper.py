"""The values printed in the paper and published about its data, the only numbers of the book that are typed in.

Paper: Li et al. 2020, arXiv 2010.09290. Data: the public ground-truth lists of iQIYI-VID-2019 and published code that
reads them.
"""

TITLE = "Frame Aggregation and Multi-Modal Fusion Framework for Video-Based Person Recognition"

# Table 1: (aggregation, fusion) → mAP on the validation set of iQIYI-VID-2019.
TABLE_1 = {
    ("netvlad", "mma"): 0.8246,
    ("ghostvlad", "concat"): 0.8109,
    ("nextvlad", "concat"): 0.8283,
    ("netvlad", "mlma"): 0.8295,
    ("attentionvlad", "mma"): 0.8610,
    ("attentionvlad", "mlma"): 0.8824,
}

# Table 2: the clip-level modalities besides the face → mAP.
TABLE_2 = {
    (): 0.8656,
    ("head",): 0.8776,
    ("audio",): 0.8688,
    ("text",): 0.8685,
    ("audio", "text"): 0.8385,
    ("audio", "body"): 0.8824,
    ("body", "text"): 0.8669,
    ("audio", "body", "text"): 0.8761,
}

# Sec. 4.4: clusters → mAP. The paper gives one value for K = 2 and K = 4; K = 16 was trained with a smaller batch.
CLUSTERS = {2: 0.7952, 4: 0.7952, 8: 0.8824, 16: 0.8323}

# iQIYI-VID-2019 as published.
IQIYI = {
    "persons": 10_034,
    "train_clips": 60_566,
    "train_clips_with_face": 57_800,
    "train_faces": 1_700_000,
    "faces_a_clip_mean": 29.5,
    "train_clips_a_person": {"least": 1, "median": 4, "mean": 6.04, "most": 161, "with_one": 1_424},
    "val_clips": 45_472,
    "val_clips_a_person": {"least": 1, "median": 3, "mean": 4.53, "most": 100},
    "val_noise_clips": 27_000,
    "val_gallery": 72_800,
    "noise_share": 0.37,
    "face_norm": (5.0, 20.0),
    "quality": {"centre": 80.0, "range": (-30.0, 200.0), "poor_below": (20.0, 40.0)},
    "det_score_nearly_all_above": 0.8,
}
