# syntax=docker/dockerfile:1
# The image: Python, the sidecar with its compiled data path, and the libraries that they load.
# It has no shell, package manager, compiler or root user.

# `make pin` writes the digest of this image to image/python-image, and `make image` passes it on.
ARG PYTHON_IMAGE=python:3.13-bookworm
FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1
WORKDIR /src
RUN python -m venv /opt/build && python -m venv --without-pip /opt/sidecar
COPY requirements-build.lock requirements-runtime.lock ./
# The build backend is locked too, and installed in an environment that the image does not contain.
RUN /opt/build/bin/pip install --require-hashes -r requirements-build.lock \
 && /opt/build/bin/pip --python /opt/sidecar/bin/python install --require-hashes -r requirements-runtime.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY sidecar ./sidecar
RUN SIDECAR_COMPILE=1 /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
 && /opt/build/bin/pip --python /opt/sidecar/bin/python install --no-deps /dist/*.whl
COPY image/root.py ./image/
RUN python image/root.py /rootfs --venv /opt/sidecar

FROM scratch
LABEL org.opencontainers.image.title="quota-sidecar" \
      org.opencontainers.image.licenses="Apache-2.0"
# Other containers send requests to 8080. The control port is local unless SIDECAR_CONTROL opens it.
ENV PATH=/opt/sidecar/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 LANG=C.UTF-8 \
    SIDECAR_LISTEN=0.0.0.0:8080 \
    SIDECAR_CONTROL=127.0.0.1:9090 \
    SIDECAR_SPOOL=/var/spool/sidecar
COPY --from=build /rootfs /
COPY --from=build --chown=65532:65532 /rootfs/var/spool/sidecar /var/spool/sidecar
# A number, so that Kubernetes can verify runAsNonRoot.
USER 65532:65532
WORKDIR /var/spool/sidecar
VOLUME ["/var/spool/sidecar"]
EXPOSE 8080 9090
HEALTHCHECK --interval=5s --timeout=2s --start-period=5s --retries=3 \
  CMD ["python", "-P", "-m", "sidecar.commands.health"]
ENTRYPOINT ["sidecar"]
CMD ["serve"]
