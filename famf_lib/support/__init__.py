"""Small services that every room uses: files, fingerprints of code, provenance and progress."""
