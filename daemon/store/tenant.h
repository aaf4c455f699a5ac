// Whose stores are whose.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "daemon/memory/budget.h"
#include "daemon/store/eviction_order.h"
#include "protocol/digest.h"

namespace kvant::daemon {

class Store;

/// One party of those that share a daemon. Names, identities and sequences mean what they mean inside it: two tenants that open
/// the same spec have two stores. Made by the store table on first sight, shared with its stores; loop thread.
struct Tenant {
  Tenant(std::string tenant_name, Budget& daemon)
      : name(std::move(tenant_name)), budget(Budget::Part(daemon, "tenant " + name)) {}
  Tenant(const Tenant&) = delete;
  Tenant& operator=(const Tenant&) = delete;

  const std::string name;
  const std::shared_ptr<Budget> budget;  ///< of all its stores; limited by its quota
  EvictionScope scope;

  std::map<protocol::Digest, std::shared_ptr<Store>> stores;  ///< by identity; the table's end parts the two
  std::map<std::string, Store*, std::less<>> labels;          ///< by name
  std::map<protocol::Digest, Store*> spellings;
};

}  // namespace kvant::daemon
