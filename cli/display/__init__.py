"""What people see: tables, progress, log lines, reports. What is shown is the commands' business."""
