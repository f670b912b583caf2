"""How control of a name is proven: http-01 and dns-01 (RFC 8555 §8), tls-alpn-01 (RFC 8737), seen from anywhere."""
