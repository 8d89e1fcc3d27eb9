"""`distillens study`: methods x seeds on one pair, evaluated and compared in one report."""
