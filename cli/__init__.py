"""The operator's and the auditor's way in: commands, configuration, wiring."""
