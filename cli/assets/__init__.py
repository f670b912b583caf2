"""What commands and the server do with assets: registering them, and finding what is not protected."""
