"""Pictures in: decoding, layouts, collections, augmentation, episodes."""
