"""IP addresses in one form, and in the blocks by which limits count them."""

import ipaddress


def plain(text: str) -> str | None:
    """The address in its shortest form, IPv4 in IPv6 as IPv4; None for what is no address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def block(address: str | None) -> str:
    """What one customer has: an IPv4 address, or the /64 of an IPv6 one; one block for all unknown."""
    if address is None:
        return "unknown"
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if ":" in address else address
