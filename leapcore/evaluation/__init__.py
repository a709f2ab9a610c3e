"""What a backbone's frozen features are worth: kNN and linear probe on their pooled vectors."""
