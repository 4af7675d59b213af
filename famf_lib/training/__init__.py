"""Training and evaluating one model, on one device or several, and what a trained model is kept in and asked for."""
