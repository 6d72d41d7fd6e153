"""A small box-prompted model of MedSAM's architecture: its images, its training and its use."""
