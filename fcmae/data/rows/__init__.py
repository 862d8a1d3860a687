"""Images in the rows of Parquet and Arrow files, as datasets on Hugging Face's hub have them."""
