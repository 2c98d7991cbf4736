"""HTTP/1.1 bytes on llhttp and uvloop: from the client, to the upstream, and back."""
