# Ruby's pools, for ruby.py, which writes lines and reads one for each.
#
# The first line is PostgreSQL's address, or empty for connections of nothing.
# Each other is a count and the name of a pool: the answer is how many seconds
# so many uses of it took.

require "json"

class StubConnection
end

ways = {}
missing = {}
url = $stdin.gets.to_s.chomp

def lacking(error)
  error.message.lines.first.to_s.strip[0, 80]
end

begin
  require "connection_pool"
  require "pg" unless url.empty?
  connect = url.empty? ? -> { StubConnection.new } : -> { PG.connect(url) }
  plain = ConnectionPool.new(size: 5, timeout: 5, &connect)
  name = "connection_pool #{ConnectionPool::VERSION} (Ruby)"
  ways[name] = ->(count) { count.times { plain.checkout; plain.checkin } }
  ways[name][1]
rescue LoadError, StandardError => error
  ways.delete(name)
  missing["connection_pool (Ruby)"] = lacking(error)
end

begin
  require "active_record"
  # not a thread of its own that wakes up in between
  options = { pool: 5, reaping_frequency: 0 }
  if url.empty?
    require "active_record/connection_adapters/abstract_adapter"

    class StubAdapter < ActiveRecord::ConnectionAdapters::AbstractAdapter
      ADAPTER_NAME = "Stub"

      def active?
        true
      end

      def check_version
      end
    end

    adapters = ActiveRecord::ConnectionAdapters
    if adapters.respond_to?(:register)
      adapters.register("stub", "StubAdapter", __FILE__)
      ActiveRecord::Base.establish_connection(adapter: "stub", **options)
      pool = ActiveRecord::Base.connection_pool
    else
      ActiveRecord::Base.define_singleton_method(:stub_connection) do |config|
        StubAdapter.new(StubConnection.new, nil, config)
      end
      config = ActiveRecord::DatabaseConfigurations::HashConfig.new(
        "bench", "primary", { adapter: "stub", **options }
      )
      owner = [ActiveRecord::Base, config]
      owner += %i[writing default] if ActiveRecord::VERSION::MAJOR >= 7
      pool = adapters::ConnectionPool.new(adapters::PoolConfig.new(*owner))
    end
  else
    ActiveRecord::Base.establish_connection(url: url, **options)
    pool = ActiveRecord::Base.connection_pool
  end
  version = ActiveRecord::VERSION::STRING[/\d+\.\d+/]
  name = "ActiveRecord #{version} (Ruby)"
  again = "ActiveRecord #{version} (Ruby), reserved"
  ways[name] = ->(count) { count.times { pool.checkin(pool.checkout) } }
  ways[again] = lambda do |count|
    pool.with_connection do
      count.times { pool.with_connection { |connection| } }
    end
  end
  ways[name][1]
  ways[again][1]
rescue LoadError, StandardError => error
  ways.delete(name)
  ways.delete(again)
  missing["ActiveRecord (Ruby)"] = lacking(error)
end

$stdout.sync = true
puts JSON.generate(names: ways.keys, missing: missing)
while (line = $stdin.gets)
  count, name = line.chomp.split(" ", 2)
  began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  ways.fetch(name)[count.to_i]
  puts Process.clock_gettime(Process::CLOCK_MONOTONIC) - began
end
