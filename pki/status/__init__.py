"""The status of certificates: lists, answers signed beforehand, where they are published, and who answers."""
