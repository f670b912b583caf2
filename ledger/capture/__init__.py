"""What turns changes in the protected systems into entries."""
