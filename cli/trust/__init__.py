"""What the commands and the server of the trust service share: how it is opened, and who is asking."""
