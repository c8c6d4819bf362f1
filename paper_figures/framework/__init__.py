"""What figures share: records, drawing, verdicts, the report."""
