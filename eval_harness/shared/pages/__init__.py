"""What all pages share: one style, figures, tables, heat maps, and their templates."""
