# JSON as text, for shim.awk: values stay as they are written, and are cut into their parts when asked for.
#
# json_type(J)           object array string number true false null; "" if it is not JSON at all
# json_get(J, NAME)      the field of an object, as JSON; "" when it has none
# json_has(J, NAME)      has it that field?
# json_fields(J, PARTS, NAMES)  how many fields: their names in NAMES[1...], their JSON in PARTS[name]
# json_list(J, PARTS)    how many elements, their JSON in PARTS[1...]
# json_set(J, NAME, V)   the object with this field as it is now
# json_text(J)           what a string says, and a number as it is
# json_string(TEXT)      a string that says this
# json_object(NAME, J, NAME, J, ...)  up to eight fields; one whose JSON is "" is left out

BEGIN { CONVFMT = "%.17g" } # no digit of a double is lost

function json_type(j) {
  if (!json_ok(j)) return ""
  sub(/^[ \t\r\n]+/, "", j)
  if (j ~ /^{/) return "object"
  if (j ~ /^\[/) return "array"
  if (j ~ /^"/) return "string"
  return j ~ /^[-0-9]/ ? "number" : substr(j, 1, 4) == "fals" ? "false" : substr(j, 1, 4)
}

# Strings become ", other words v, and then the innermost brackets v, until one is left.
function json_ok(j) {
  gsub(/"([^"\\\x00-\x1f]|\\(["\\\/bfnrt]|u[0-9a-fA-F]{4}))*"/, "\"", j)
  if (j ~ /[^-+0-9.eE\]\[{},:" \t\r\ntruefalsn]/) return 0
  gsub(/-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null/, "v", j)
  gsub(/[ \t\r\n]+/, "", j)
  while (gsub(/\[\]|\[[v"](,[v"])*\]|{}|{":[v"](,":[v"])*}/, "v", j));
  return j ~ /^[v"]$/
}

# The parts of an object or array: in `parts` by number, their names in `names`.
function json_cut(j, parts, names,    strings, seps, many, at, sep, char, depth, part, count) {
  delete parts
  delete names
  many = patsplit(j, strings, /"([^"\\]|\\.)*"/, seps)
  depth = count = 0
  for (at = 0; at <= many; at++) {
    if (at) part = part strings[at]
    for (sep = seps[at]; match(sep, /[\]\[{},:]/);) {
      char = substr(sep, RSTART, 1)
      part = part substr(sep, 1, RSTART - 1)
      sep = substr(sep, RSTART + 1)
      if (depth == 1 && char == ":") { names[count + 1] = json_text(part); part = ""; continue }
      if (depth == 1 && char ~ /[,\]}]/ && part ~ /[^ \t\r\n]/) { parts[++count] = json_trim(part); part = "" }
      depth += char ~ /[\[{]/ ? 1 : char ~ /[\]}]/ ? -1 : 0
      if (depth > 1 || depth == 1 && char ~ /[\]}]/) part = part char
    }
    part = part sep
  }
  return count
}

function json_trim(j) { gsub(/^[ \t\r\n]+|[ \t\r\n]+$/, "", j); return j }

function json_fields(j, parts, names,    values, count, at) {
  count = json_cut(j, values, names)
  delete parts
  for (at = 1; at <= count; at++) parts[names[at]] = values[at]
  return count
}

function json_list(j, parts,    names) { return json_cut(j, parts, names) }
function json_has(j, name,    parts, names) { json_fields(j, parts, names); return name in parts }
function json_get(j, name,    parts, names) { json_fields(j, parts, names); return name in parts ? parts[name] : "" }

function json_set(j, name, value,    parts, names, count, at, out) {
  count = json_fields(j, parts, names)
  if (!(name in parts)) names[++count] = name
  parts[name] = value
  for (at = 1; at <= count; at++) out = out json_field(names[at], parts[names[at]])
  return "{" substr(out, 2) "}"
}

function json_text(j,    out, code, low) {
  if (json_trim(j) !~ /^"/) return json_trim(j)
  j = json_trim(j)
  j = substr(j, 2, length(j) - 2)
  while (match(j, /\\(u[0-9a-fA-F]{4}|.)/)) {
    out = out substr(j, 1, RSTART - 1)
    code = substr(j, RSTART + 1, RLENGTH - 1)
    j = substr(j, RSTART + RLENGTH)
    if (code !~ /^u/) { out = out (index("nrtbf", code) ? substr("\n\r\t\b\f", index("nrtbf", code), 1) : code); continue }
    code = strtonum("0x" substr(code, 2))
    if (code >= 55296 && code < 56320 && j ~ /^\\u[dD][c-fC-F]/) {
      low = strtonum("0x" substr(j, 3, 4))
      j = substr(j, 7)
      code = 65536 + (code - 55296) * 1024 + low - 56320
    }
    out = out json_utf8(code)
  }
  return out j
}

function json_utf8(code) { # bytes: gawk runs with -b
  if (code < 128) return sprintf("%c", code)
  if (code < 2048) return sprintf("%c%c", 192 + code / 64, 128 + code % 64)
  if (code < 65536) return sprintf("%c%c%c", 224 + code / 4096, 128 + code / 64 % 64, 128 + code % 64)
  return sprintf("%c%c%c%c", 240 + code / 262144, 128 + code / 4096 % 64, 128 + code / 64 % 64, 128 + code % 64)
}

function json_string(text,    out, char) {
  gsub(/[\\"]/, "\\\\&", text)
  gsub(/\n/, "\\n", text)
  gsub(/\t/, "\\t", text)
  while (match(text, /[\x00-\x1f]/)) {
    for (char = 0; sprintf("%c", char) != substr(text, RSTART, 1);) char++
    out = out substr(text, 1, RSTART - 1) sprintf("\\u%04x", char)
    text = substr(text, RSTART + 1)
  }
  return "\"" out text "\""
}

function json_object(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p,    out) {
  out = json_field(a, b) json_field(c, d) json_field(e, f) json_field(g, h)
  out = out json_field(i, j) json_field(k, l) json_field(m, n) json_field(o, p)
  return "{" substr(out, 2) "}"
}

function json_field(name, j) { return j == "" ? "" : "," json_string(name) ":" j }
