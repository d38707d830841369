#!/bin/sh
# pinned.sh VERSION IMAGE: fails when an image of a released version would be built on a base that
# is named by a tag. A tag is moved to other contents; a digest names contents.
set -eu
version=$1 image=$2
[ "$version" = dev ] && exit 0
digest=${image##*@sha256:}
if [ "$digest" != "$image" ] && [ ${#digest} -eq 64 ] && [ -z "$(printf %s "$digest" | tr -d 0-9a-f)" ]; then
    exit 0
fi
cat >&2 <<EOF
The base image $image has no digest, and VERSION=$version is a release. Ask the registry for it:
  docker buildx imagetools inspect $image --format '{{.Manifest.Digest}}'
and add it to RUST_IMAGE in deploy/Dockerfile (NAME:TAG@sha256:...), or give it by
  --build-arg RUST_IMAGE=$image@sha256:...
EOF
exit 1
