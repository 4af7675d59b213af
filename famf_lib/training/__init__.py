"""Training and evaluating models, on one device or several; saving, exporting and applying them."""
