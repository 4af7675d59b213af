"""The data: clips and their features (ClipSet), how they are sampled and split, and one module per source."""
