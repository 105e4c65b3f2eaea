"""What is known about visual tokens beyond their features, read off the model while it encodes."""
