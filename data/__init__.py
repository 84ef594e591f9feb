"""BreakHis on disk -> a checked patient table -> decoded uint8 images -> device-resident batches."""
