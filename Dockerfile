# syntax=docker/dockerfile:1

FROM python:3.13-slim AS packages
COPY requirements.txt /
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /requirements.txt

FROM python:3.13-slim
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/chatbe --create-home --shell /usr/sbin/nologin chatbe \
    && install --directory --owner chatbe --group chatbe --mode 0700 /var/lib/chatbe/attachments
COPY --from=packages /venv /venv
WORKDIR /srv/chatbe
COPY . .
RUN /venv/bin/python -m compileall -q .
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CHATBE_ENV_FILE=none \
    CHATBE_LOG_FORMAT=json \
    CHATBE_VAR_DIR=/var/lib/chatbe
USER 10001
EXPOSE 8000
# ALLOWED_HOSTS must hold 127.0.0.1 for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["python", "manage.py"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
