#!/bin/sh
# Settings for a SeaweedFS site whose Object Lock cannot be undone through its other ports.
#
#   sh docker/harden-seaweedfs.sh /etc/seaweedfs
#
# makes a CA, a certificate for gRPC and a security.toml in that directory, once; what is there stays. Then start every
# part of SeaweedFS with that directory as its working directory (or as /etc/seaweedfs) and with -disableHttp. See
# docs/sites.md.
set -eu
umask 077
directory=${1:?usage: harden-seaweedfs.sh DIRECTORY}
mkdir -p "$directory"
cd "$directory"
if [ -e security.toml ]; then
    echo "$directory/security.toml is there already; nothing was changed" >&2
    exit 0
fi
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=seaweedfs site CA" \
    -keyout ca.key -out ca.crt 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=seaweedfs" \
    -keyout grpc.key -out grpc.csr 2>/dev/null
openssl x509 -req -in grpc.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out grpc.crt 2>/dev/null
rm grpc.csr
here=$(pwd)
secret() { openssl rand -hex 32; }
{
    for section in jwt.signing jwt.signing.read jwt.filer_signing jwt.filer_signing.read; do
        printf '[%s]\nkey = "%s"\nexpires_after_seconds = 10\n\n' "$section" "$(secret)"
    done
    printf '[access]\nui = false\n\n[grpc]\nca = "%s/ca.crt"\n\n' "$here"
    for section in master volume filer s3 msg_broker msg_agent admin worker mq client; do
        printf '[grpc.%s]\ncert = "%s/grpc.crt"\nkey = "%s/grpc.key"\nallowed_commonNames = "seaweedfs"\n\n' \
            "$section" "$here" "$here"
    done
} >security.toml.new
mv security.toml.new security.toml
echo "$directory/security.toml is written; keep ca.key away from this machine"
